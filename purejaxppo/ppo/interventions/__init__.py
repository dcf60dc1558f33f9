"""What holds the representation or the policy back, by where it acts; each off by default.

objectives: what the policy maximises. proximity: what keeps it near the policy that collected the rollout (PFO, KL).
penalties: further terms of the loss. after_step: what is done to weights after every gradient step. resets: which units
are made anew, and when. optimizers: what is done with gradients. An intervention that is a penalty is one formula and
one entry in `penalties.penalties`; its switch is in `config.py`, its strength, a float that is swept inside one
program, in `hyperparams.py`.
"""
