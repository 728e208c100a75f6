"""Tables and plots of finished and running trainings, detectors and classifiers alike."""
