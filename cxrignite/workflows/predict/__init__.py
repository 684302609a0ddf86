"""Score new images into a CSV table, written batch by batch."""
