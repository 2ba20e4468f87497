"""Actions, integrated poses and poses in a camera's frame are those of the released code."""

import pytest
import torch

from vjepa_lab.robots import DROID

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_recorded_poses(recorded, dtype):
    case = {name: value.to(dtype) for name, value in recorded("poses").items()}
    got = {
        "actions": DROID.difference(case["poses"]),
        "new_poses": DROID.integrate(case["poses"][:-1], case["actions"]),
        "poses_in_camera_frame": DROID.to_camera(case["poses"], case["extrinsics"]),
    }
    for name, value in got.items():
        torch.testing.assert_close(value, case[name], rtol=0, atol=TOLERANCE[dtype])


def test_golden_actions_pose_and_camera_frame():
    poses = torch.tensor(
        [
            [0.1, 0.2, 0.3, 0.1, -0.4, 2.9, 0],
            [0.15, 0.18, 0.33, 0.2, -0.3, -3, 0.5],
            [0.12, 0.2, 0.31, 3.1, 0.05, -2, 1],
        ],
        dtype=torch.float64,
    )
    actions = DROID.difference(poses)
    assert actions[0].tolist() == pytest.approx(
        [0.05, -0.02, 0.03, -0.11661378, -0.07237435, 0.421769804, 0.5], abs=1e-8
    )
    assert actions[1].tolist() == pytest.approx(
        [-0.03, 0.02, -0.02, -2.861969301, 0.20413628, 1.354606545, 0.5], abs=1e-8
    )
    torch.testing.assert_close(DROID.integrate(poses[0], actions[0]), poses[1])
    camera = torch.tensor([0.4, -0.2, 0.6, 1.5, 0.3, -0.7], dtype=torch.float64)
    expected = [-0.376726298, -0.421511949, -0.142845976, 1.783565214, -0.428621136, 3.032770502, 0]
    assert DROID.to_camera(poses[0], camera).tolist() == pytest.approx(expected, abs=1e-8)
