"""Isolated jobs: each in a process of its own, within limits, on this machine or on others, with a store of what came.

Nothing here knows what a model is. A :class:`Job` is a function at the top of a module and its arguments; an
:class:`Outcome` is what came of it. :func:`run` does many, :class:`~bnfold.jobs.store.Store` remembers them.

>>> for job, outcome in run(jobs, limits=JobLimits(seconds=60.0, memory=2 << 30), workers=4):
...     print(job.key, outcome.status.value, outcome.value)
"""

from bnfold.jobs.outcome import Job, JobLimits, Outcome, Status
from bnfold.jobs.running import Progress, run
from bnfold.jobs.serving import emit

__all__ = ["Job", "JobLimits", "Outcome", "Progress", "Status", "emit", "run"]
