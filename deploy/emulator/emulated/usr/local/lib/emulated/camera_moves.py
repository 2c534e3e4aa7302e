# ruff: noqa: INP001
"""Let the picture of the kernel's virtual camera move everywhere: run by udev with the device's path.

Numbers of linux/videodev2.h, media/v4l2-tpg.h and drivers/media/test-drivers/vivid/vivid-ctrls.c.
"""

import fcntl
import struct
import sys

SET_CONTROL = 0xC008561C  # VIDIOC_S_CTRL
BASE = 0x00F00000 | 0xF000  # VIVID_CID_VIVID_BASE
TEST_PATTERN, HORIZONTAL_MOVEMENT = BASE, BASE + 2
GREY_RAMP = 20  # bars would change at their edges alone
RIGHT_FAST = 6

with open(sys.argv[1], "rb+", buffering=0) as camera:  # noqa: PTH123  the adapter has nothing to lint
    for control, value in ((TEST_PATTERN, GREY_RAMP), (HORIZONTAL_MOVEMENT, RIGHT_FAST)):
        fcntl.ioctl(camera, SET_CONTROL, struct.pack("Ii", control, value))
