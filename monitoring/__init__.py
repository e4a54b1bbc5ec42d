"""Watch it: health and metrics of every process."""
