"""One training step of GANomaly: the players, and what each learns from one batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.errors import TrainingDiverged
from trainer.models.blocks import initialise
from trainer.models.ganomaly import (
    DISCRIMINATOR_COLLAPSED,
    WEIGHTS,
    Reconstruction,
    discriminator_loss,
    generator_terms,
    weighted,
)
from trainer.models.video_ganomaly import margin_loss
from trainer.scramble import scramble

ADAM_BETAS = (0.5, 0.999)


@dataclass(slots=True)
class Players:
    """Generator and discriminator with their optimisers."""

    generator: nn.Module
    discriminator: nn.Module
    generator_optimiser: torch.optim.Optimizer
    discriminator_optimiser: torch.optim.Optimizer


def adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """GANomaly's optimiser."""
    return torch.optim.Adam(module.parameters(), lr=learning_rate, betas=ADAM_BETAS)


def train_step(players: Players, pictures: Tensor) -> dict[str, Tensor]:
    """Learn from one batch, generator first; the losses before the step, by name, detached.

    Of one half of the batch the generator sees the motion scrambled and must restore it. The latent distance is made small
    for the other half only, and must keep a margin where motion is too fast. The discriminator judges what the generator
    made before its own step, as in the reference.
    """
    half = len(pictures) // 2
    wrong = scramble(pictures[:half])
    made = players.generator(torch.cat([wrong.pictures, pictures[half:]]))
    features, logits = players.discriminator(pictures)
    features_made, _ = players.discriminator(made.picture)
    _, logits_made = players.discriminator(made.picture.detach())
    terms = generator_terms(pictures, _latents(made, slice(half, None)), features.detach(), features_made)
    total = torch.stack(list(weighted(terms, WEIGHTS).values())).sum()
    margin = margin_loss(_latents(made, slice(half)), wrong.too_fast)
    for_discriminator = discriminator_loss(logits, logits_made)
    _update(players.generator_optimiser, total + margin, list(players.generator.parameters()))
    _update(players.discriminator_optimiser, for_discriminator, list(players.discriminator.parameters()))
    losses = {**terms, "total": total, "margin": margin, "discriminator": for_discriminator}
    return {name: value.detach() for name, value in losses.items()}


def check_finite(losses: dict[str, float], step: int) -> None:
    """Stop a run that can no longer learn.

    Raises:
        TrainingDiverged: a loss is not a finite number.
    """
    for name, value in losses.items():
        if not -torch.inf < value < torch.inf:
            raise TrainingDiverged(
                f"step {step}: the {name} loss is {value}; start again with another --seed, and if it comes back "
                "look for broken footage"
            )


def restart_collapsed(players: Players, discriminator_loss_now: float) -> bool:
    """Give a discriminator that has won new weights and a new optimiser state; whether it was so."""
    if discriminator_loss_now >= DISCRIMINATOR_COLLAPSED:
        return False
    players.discriminator.apply(initialise)
    players.discriminator_optimiser.state.clear()
    return True


def _latents(made: Reconstruction, part: slice) -> Reconstruction:
    return Reconstruction(made.latent[part], made.picture, made.latent_again[part])


def _update(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> None:
    """One optimiser step for ``parameters`` alone: the other player's must not collect gradients."""
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimiser.step()
