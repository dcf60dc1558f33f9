"""A diagnostic of this project's own."""

import purejaxppo as pjp


@pjp.diagnostic(
    churn=("churn", "", "share of states whose most likely action is another after the update phase than before"),
    reversed_value=("reversed value", "", "mean value of the observations of the rollout turned left to right, after"),
)
def churn(before, after, batch):
    """How much of the policy changes, and a value at observations that the batch has not."""
    is_other = before.policy.outputs.argmax(-1) != after.policy.outputs.argmax(-1)
    _, critic = after.both(batch.obs[:, :, ::-1])
    return {"churn": is_other.mean(), "reversed_value": critic.outputs.mean()}
