"""diffusers' schedulers by the names that a request has for them."""

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, SchedulerMixin

DDIM, PNDM, DPMPP_2M = SCHEDULERS = ("ddim", "pndm", "dpmpp_2m")


def make_scheduler(name: str, schedule: dict) -> SchedulerMixin:
    """`schedule` as in pipeline.json. PNDM and DPM-Solver++ 2M are what `from_config` makes of Stable Diffusion 1.5's
    scheduler_config.json: PNDM skips its Runge-Kutta steps, DPM-Solver++ spaces its timesteps evenly ("linspace", as
    that file names no spacing) and ends at sigma 0."""
    ddim = DDIMScheduler(**schedule)
    if name == DDIM:
        return ddim
    if name == PNDM:
        return PNDMScheduler.from_config(ddim.config, skip_prk_steps=True)
    if name == DPMPP_2M:
        return DPMSolverMultistepScheduler.from_config(
            ddim.config,
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            lower_order_final=True,
            final_sigmas_type="zero",
            timestep_spacing="linspace",
        )
    raise ValueError(f"scheduler is {name!r}, want one of {', '.join(SCHEDULERS)}")
