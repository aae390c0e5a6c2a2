"""What a recipe was tuned for against what is run: the linear scaling rule, said aloud, applied by nobody."""

import logging

from omegaconf import DictConfig

_log = logging.getLogger(__name__)


def report_recipe(cfg: DictConfig) -> str | None:
    """Print batch size, learning rate and their ratio beside the recipe's, and warn when they differ twofold.

    Args:
        cfg: a recipe with `train.recipe.total_batch_size` and `train.recipe.lr`.

    Returns:
        The warning with the learning rate (or batch size) that the linear rule suggests; None if all is well.
    """
    batch, lr = cfg.dataloader.train.total_batch_size, cfg.optimizer.lr
    tuned = cfg.train.recipe
    ratio, tuned_ratio = lr / batch, tuned.lr / tuned.total_batch_size
    _log.info(
        f"batch {batch}, lr {lr:g}, lr/batch {ratio:.3g}; "
        f"the recipe: batch {tuned.total_batch_size}, lr {tuned.lr:g}, lr/batch {tuned_ratio:.3g}"
    )
    if 0.5 <= ratio / tuned_ratio <= 2:
        return None
    warning = (
        f"lr/batch is {ratio / tuned_ratio:.2g} times the recipe's. The linear rule suggests "
        f"optimizer.lr={tuned_ratio * batch:.4g} for batch {batch}, and train.max_iter longer by the factor by which "
        "the batch is smaller. Change train.recipe too if this is meant."
    )
    _log.warning(warning)
    return warning
