"""Pictures of detectors beside one another, and the page that shows them."""
