"""The models that the GLIED paper compares with in its Table 2, with the same interface as GLIED."""
