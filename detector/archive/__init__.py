"""Archives: many recordings through the pipeline at once, on Dask, into a Parquet data set."""
