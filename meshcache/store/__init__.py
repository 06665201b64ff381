"""What is kept, where, and until when: near, the range store, generations."""
