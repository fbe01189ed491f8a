"""The bits of the latent prior are the same on every machine: checks that take another machine, or emulate one."""
