"""Traffic, faults, histories and the checkers of each promise, in the manner of etcd's robustness tests."""
