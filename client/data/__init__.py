"""From a line or a file to rows of numbers, and the rows that training may use."""
