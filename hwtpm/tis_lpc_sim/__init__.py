"""A simulated TPM chip behind LPC: five locality pages, a software TPM, scripted faults."""

from __future__ import annotations

from hwtpm.tis_lpc_sim.device import ExecutorTpm, SimulatedChip
from hwtpm.tis_lpc_sim.window import LpcPort, LpcWindow

__all__ = ["ExecutorTpm", "LpcPort", "LpcWindow", "SimulatedChip"]
