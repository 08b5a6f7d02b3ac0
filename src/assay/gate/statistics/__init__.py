"""The statistics of the gate: tests and limits whose error rate is known, in numpy and scipy alone.

`confidence` is two-sided and `alpha` one-sided everywhere, alpha = (1 - confidence) / 2: of a 95% interval each end
fails 2.5% of the time. Every lower limit here is a test: it lies above a bound that the truth does not exceed at most
alpha of the time. Counts need not be whole: a fraction of them answers "how many would be enough", and what remains of
them when images hang together (`clusters`) is one too.
"""
