"""Generated audio that needs no download: ten tasks in HEAR format and an unlabeled corpus.

python -m hearbench.synthetic tasks --out DIR
python -m hearbench.synthetic corpus --out DIR [--clips 400]
"""

from hearbench.synthetic.tasks import TASKS, MiniatureTask
from hearbench.synthetic.writer import write_corpus, write_tasks

__all__ = ["TASKS", "MiniatureTask", "write_corpus", "write_tasks"]
