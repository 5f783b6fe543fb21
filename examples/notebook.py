"""Train EDSR with Lightning's Trainer, as in a notebook, and read its metrics."""

import lightning as L
import torch

from datamodules.folders import PhotoFolders
from lightning_modules.checkpoint import load_scorer
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.losses import HybridLoss
from lightning_modules.schedules import Cosine
from networks.edsr import EDSR

data = PhotoFolders("photos/train", "photos/valid", patch_size=96, batch_size=2, num_steps=5)
loss = HybridLoss(0.1, load_scorer("weights/nima_ava_distilled.safetensors"))
net = EDSR(scale=2, num_blocks=4, num_features=32)
module = EnhancementModule(net, loss, torch.optim.Adam, Cosine())
trainer = L.Trainer(max_epochs=2, use_distributed_sampler=False)  # the data module brings its own
trainer.fit(module, data)
print({name: round(float(value), 2) for name, value in trainer.callback_metrics.items()})
