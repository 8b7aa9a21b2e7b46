"""From the files of runs to tables, figures, the comparison with the paper and the report."""
