"""Training an image-text model with the loss, from a configuration. Needs ``pip install "aoq_ext[train]"``."""

from aoq_ext.parallel import LostProcessError
from aoq_ext.training.collapse import CollapseError
from aoq_ext.training.config import (
    Component,
    ConfigError,
    DataConfig,
    LossConfig,
    ModelConfig,
    OfflineConfig,
    OptimizerConfig,
    TrainConfig,
)
from aoq_ext.training.evaluation import evaluate_run
from aoq_ext.training.history import History
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.mining import mine_run
from aoq_ext.training.offline import OfflineLists
from aoq_ext.training.parse import load_config
from aoq_ext.training.trainer import TrainingError, train

__all__ = [
    "CollapseError",
    "Component",
    "ConfigError",
    "DataConfig",
    "History",
    "LoadedRun",
    "LossConfig",
    "LostProcessError",
    "ModelConfig",
    "OfflineConfig",
    "OfflineLists",
    "OptimizerConfig",
    "TrainConfig",
    "TrainingError",
    "evaluate_run",
    "load_config",
    "load_run",
    "mine_run",
    "train",
]
