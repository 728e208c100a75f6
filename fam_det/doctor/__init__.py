"""``python -m fam_det.doctor``: what is installed, and what to do about each gap.

Its modules import the standard library alone; what a check looks for it imports in a process of its
own, so that nothing there can end or stop this one.
"""
