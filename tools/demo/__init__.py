"""The demo: a teacher, a student and a distilled student on scenes of handwritten digits."""
