"""A whole distillation config out of a teacher, a student's name and data in COCO format.

``recipe`` is the entrance; ``tools/distill.py`` the command.
"""
