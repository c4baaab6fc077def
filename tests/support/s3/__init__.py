"""Object stores on this machine, for tests: each on a free port of the loopback interface, ended with its test."""
