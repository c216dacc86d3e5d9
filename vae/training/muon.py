"""Muon beside AdamW in one optimizer: hidden matrices move by orthogonalised momentum, all else by AdamW."""

import torch
from torch import Tensor

from vae.training.checkpoints import adamw_state, is_sharded, local_part

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, and torch.optim.Muon's
ITERATIONS, MOMENTUM = 5, 0.95


class Muon(torch.optim.AdamW):
    """AdamW; in groups whose `parts` are above 0, Muon (Jordan et al. 2024), as `torch.optim.Muon` has it.

    The rows of such a matrix are so many equal parts, a head's each where layers are fused, and each part is
    orthogonalised alone, at the size of AdamW's steps (Liu et al. 2025, `match_rms_adamw`): one rate serves
    both. Sharded momentum is gathered, a matrix at a time, and every process orthogonalises all of them; in
    fp32, so that the number of processes changes last digits alone. As with fused AdamW, `found_inf` above 0,
    a number on the device, has weights and momentum keep their bits.
    """

    def first_state(self, parameter: Tensor, group: dict) -> dict[str, Tensor]:
        """The state before the first update, all zeros."""
        if group["parts"]:
            return {"momentum_buffer": torch.zeros_like(parameter)}
        return adamw_state(parameter, group)

    @torch.no_grad()
    def step(self) -> None:
        """One update. Every process, as matrices may be sharded."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["parts"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            for parameter in group["params"] if group["parts"] else ():
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict) -> None:
        """Moves a matrix by Nesterov's momentum of its gradients, orthogonalised."""
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state |= self.first_state(parameter, group)
        bad = getattr(self, "found_inf", None)
        momentum = state["momentum_buffer"].lerp(gradient, 1 - MOMENTUM)
        update = gradient.lerp(momentum, MOMENTUM)
        whole = update.full_tensor() if is_sharded(update) else update
        parts = whole.unflatten(0, (group["parts"], -1))
        size = (
            0.2 * max(parts.shape[1:]) ** 0.5
        )  # root mean square of AdamW's step, over that of one of these
        change = size * orthogonalised(parts).flatten(0, 1)
        if is_sharded(parameter):
            from torch.distributed.tensor import distribute_tensor

            # Each process has the whole of it: nothing is sent.
            mesh, placements = parameter.device_mesh, parameter.placements
            change = distribute_tensor(change, mesh, placements, src_data_rank=None)
        moved = parameter.mul(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"])
        for old, new in ((state["momentum_buffer"], momentum), (parameter, moved)):
            old, new = local_part(old), local_part(new)
            old.copy_(new if bad is None else torch.where(bad > 0, old, new))


def orthogonalised(x_PRC: Tensor) -> Tensor:
    """Each of P matrices R x C with its singular values brought near 1, by Newton and Schulz' iteration."""
    x = x_PRC.float()
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    x = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if x_PRC.shape[1] <= x_PRC.shape[2] else x.mT).type_as(x_PRC)
