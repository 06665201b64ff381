"""Who is in the cluster and who lives: SWIM with Lifeguard, as a pure machine.

`machine.Swim` is the whole of it; every other module is one of its nouns.
"""
