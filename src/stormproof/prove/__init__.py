"""Prove: attack any FastAPI app and report what was lost, leaked or blocked."""
