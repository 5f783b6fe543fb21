"""Whatever a configuration asks for, it is run or refused in one message: no traceback, no hang."""

import time
from pathlib import Path

import pytest

from tests.conftest import Cli

LONG = "x" * 300
REFUSED = """
trainer.devices=abc
trainer.devices=[0,1]
~model
~trainer
~data
net=[edsr,mdsr]
optim.optimizer=null
optim.schedule=null
optim.schedule=text
scorer.checkpoint=[a.ckpt,b.ckpt]
scorer.checkpoint=3
--config-dir nowhere
--config-name nothing
net.num_features=10000000
net.num_blocks=100000000
experiment=sample_nima scorer.num_buckets=100000000
scorer.num_buckets=100000000
prepare dataset=photos root=. resize=1000000000
data.batch_size=1000000000
data.num_workers=100000
-m gamma=range(0,1e9)
name=LONG
init_from=LONG
paths.output_dir=LONG
enhance input=a.png output=LONG
trainer.devices=-2
trainer.devices=-1
trainer.devices=null
trainer.devices=1.5
trainer.devices=auto
trainer.devices=[]
trainer.devices=1000000000
trainer=ddp_cpu trainer.devices=100000 data.batch_size=100000
trainer=ddp_cpu trainer.num_nodes=100000 data.batch_size=200000
trainer.precision=null
trainer.accumulate_grad_batches=abc
trainer.accelerator=[cpu]
trainer=[cpu,gpu]
~optim
~scorer
~callbacks
~experiment
~net
~paths
~judge
~seed
~epochs
~optim.optimizer
~loss
~trainer.devices
~net._target_
~data.batch_size
data=null
model=null
optim=null
trainer=null
experiment=null
judge=null
paths=null
paths.output_dir=null
loss=null
model.net=null
judge=3
optim.optimizer=adam
optim.optimizer=[1,2]
optim.optimizer._target_=null
optim.optimizer._target_=no.such.Thing
net._target_=networks.edsr.NONE
net._target_=3
data._target_=datamodules
callbacks.checkpoint=3
data=[sample_pairs,photos]
experiment=[sample_edsr,sample_nima]
model=[nima,enhancement]
optim=[adam,adamw_warmup]
scorer=[vgg16,mnasnet_1_0]
net.num_features=20000
net.num_features=-1
net.num_features=0
net.num_blocks=100000
net=mdsr net.num_blocks=1000000
net=can net.num_layers=100000
net=srcnn net.num_features=[1000000,1000000]
net=srcnn net.kernel_sizes=[99999,5,5]
net.num_features=100000000000000000000000
data.patch_size=100000
data.batch_size=100000 data.patch_size=1000
data.limit=1e9
data.degradation.kernel_size=1000000001 data.degradation.blur=1
seed=100000000000000000000000
seed=-1
epochs=1000000000000
epochs=1e9
experiment=sample_nima scorer.resize=1000000000 scorer.crop=1000000000
experiment=sample_nima data.num_train=1000000000
experiment=sample_nima data.batch_size=100000000
data.num_steps=1000000000000
interpolate checkpoints=[a,b] steps=1000000000
prepare dataset=photos root=. crop=1000000000
prepare dataset=rated root=. ratings=a.csv num_buckets=1000000000
score input=a.png num_workers=100000
serve port=1000000
gamma=1e400
-m seed=range(0,1000000)
-m gamma=range(0,inf)
-m gamma=range(0,1,1e-9)
-m gamma=range(0,1,0)
-m gamma=range(1,0)
-m gamma=range(0,200) seed=range(0,200)
-m gamma=range(0,1e9) seed=range(0,1e9)
-m scale=2,7
-m seed=range(0,100) epochs=0
-m gamma=range(-1,200)
-m hydra.launcher.jobs=1000000000 gamma=0,1
-m hydra.launcher.jobs=0 gamma=0,1
-m hydra/launcher=nope
--config-path elsewhere
--cfg
--cfg nothing
--info nothing
--cfg job --package nothing
--experimental-rerun x.pickle
--config-dir
--cfg job -m
--resolve
--cfg job experiment=null
--cfg job net=[edsr,mdsr]
--cfg job gama=1
--cfg job stale=${nothing} --resolve
--unknown
-x
gamma=[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]
gamma={a:1}
gamma=[1]
gamma=${gamma}
gamma=${nothing}
epochs=${epochs}
seed=true
resume=maybe
name=../x
name=
+gamma.x=1
+foo=1
+foo.bar=1
+judge.foo=1
+optim.foo=1
+net.foo=1
hydra.foo=1
hydra.mode=NONE
scale=null
stale=never
data.degradation=3
data.degradation.blur=text
data.scale=text
enhance input=a.png tile=0
enhance input=a.png scale=9
enhance
score
report
enhance input=LONG
evaluate checkpoint=LONG
evaluate checkpoint=[]
evaluate scorer=null checkpoint=a
evaluate scorer.checkpoint=[a] checkpoint=b
evaluate data=null checkpoint=b
evaluate ~judge checkpoint=b
"""


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.slow if line.startswith("-m") else ())
        for line in REFUSED.strip().splitlines()
    ],
)
def test_refused_in_one_message(cli: Cli, folder: Path, line: str) -> None:
    start = time.process_time()
    done = cli(*line.replace("LONG", LONG).split())
    assert done.code == 2, done.out
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.err + done.out
    assert done.out == ""
    assert list(folder.iterdir()) == []
    assert time.process_time() - start < 10  # a second or two, and what is imported the first time
