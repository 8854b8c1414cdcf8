"""The models that the GLIED paper compares with (its Table 2), behind the same interface as GLIED."""
