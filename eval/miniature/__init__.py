"""Generated audio that needs no download: ten tasks in HEAR format and an unlabeled corpus.

python -m eval.miniature tasks --out DIR
python -m eval.miniature corpus --out DIR [--clips 400]
"""

from eval.miniature.tasks import TASKS, MiniatureTask
from eval.miniature.writer import write_corpus, write_tasks

__all__ = ["TASKS", "MiniatureTask", "write_corpus", "write_tasks"]
