"""``bench``: converted files side by side, each in a process of its own, taking turns.

Processes, so that memory and start-up are each file's alone and engines do not share thread pools; turns, because a
machine's speed drifts by more than files differ. Here is nothing to import on the way into such a process, whose start is
measured: :mod:`~stopt.benchmarking.measuring` has the parent's side, :mod:`~stopt.benchmarking.worker` the child's.
"""
