"""Hand-written autograd for speed; each function equals a plain formula, which a test holds."""
