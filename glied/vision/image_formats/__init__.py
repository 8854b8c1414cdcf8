"""The structure of image files, by format: what decides their pixels."""
