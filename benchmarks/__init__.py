"""Speed, measured beside a literal re-statement of the published training loop."""
