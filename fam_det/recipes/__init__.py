"""Derives a distillation config from a teacher, a student's name and data in COCO format.

Start reading at ``recipe``; ``tools/distill.py`` is the command.
"""
