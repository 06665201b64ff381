"""From objects to bytes and back: keys, values, messages, frames.

Nothing here trusts what it decodes. Bytes from a peer become a message or a
`RemoteProtocolError`, in memory bounded by the size of the frame.
"""
