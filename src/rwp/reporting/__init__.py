"""From what runs left behind to tables, figures, the comparison with the paper and the report."""
