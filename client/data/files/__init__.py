"""Files of rows: tables as CSV or Parquet, and the partitions of clients in them."""
