"""The demo: the blog post's service as it was written, and the neighbours it talks to."""
