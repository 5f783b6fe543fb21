"""Train EDSR against a scorer in a plain PyTorch loop."""

import torch

from datamodules.folders import PhotoFolders
from lightning_modules.checkpoint import load_scorer
from lightning_modules.losses import HybridLoss
from networks.edsr import EDSR

data = PhotoFolders("photos/train", "photos/valid", patch_size=96, batch_size=2, num_steps=5)
loss = HybridLoss(0.1, load_scorer("weights/nima_ava_distilled.safetensors"))
net = EDSR(scale=2, num_blocks=4, num_features=32)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
loader = data.train_dataloader()
for epoch in range(2):
    for batch in loader:  # each pass draws new patches
        lr, hr = batch.to_unit()
        total, terms, _ = loss(net(lr), hr)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    print(epoch + 1, {name: round(value.item(), 2) for name, value in terms.items()})
