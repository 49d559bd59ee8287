# Only what kube/config.py calls; the package itself is generated and mostly untyped.
