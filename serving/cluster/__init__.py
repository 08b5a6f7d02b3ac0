"""A Kubernetes cluster, as `serving.rollout` needs it: requests, objects, pods, and the lock that keeps others out."""
