"""Shared, tiled and locally connected layers learn a blur that depends on the position: who can?"""

import numpy as np

from triconv.layers import Adam, Conv, backprop, mean_squared_error

rng = np.random.default_rng(0)
visible = rng.standard_normal((256, 1, 16)).astype(np.float32)
width = 1 + np.arange(14) % 2  # even positions average two values, odd ones three
hidden = np.stack([visible[:, :, c : c + 1 + w].mean(axis=2) for c, w in enumerate(width)], axis=2)

for name, bank in (("shared", None), ("tiled, period 2", 2), ("locally connected", "local")):
    layer = Conv(1, 1, (3,), bank=bank, visible_size=(16,))
    optimizer = Adam(layer.parameters, rate=0.05)
    for _ in range(200):
        loss = backprop([layer], visible, hidden, mean_squared_error)
        optimizer.step()
    print(f"{name:18} {layer.weight.value.size:3} weights, error {loss:.1e}")
