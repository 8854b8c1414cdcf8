"""A captioner of one's own from an archive: the steps of jobs/teach.py, each of which is an existing job."""
