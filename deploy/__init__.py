"""Run and operate it: `up`, `serve`, the periodic jobs."""
