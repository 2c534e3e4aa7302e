# ruff: noqa: INP001
"""Let the test picture of the kernel's virtual camera move: run by udev with the device's path.

Numbers of linux/videodev2.h and of drivers/media/test-drivers/vivid/vivid-ctrls.c.
"""

import fcntl
import struct
import sys

SET_CONTROL = 0xC008561C  # VIDIOC_S_CTRL
HORIZONTAL_MOVEMENT = (0x00F00000 | 0xF000) + 2  # VIVID_CID_HOR_MOVEMENT
RIGHT_SLOWLY = 4

with open(sys.argv[1], "rb+", buffering=0) as camera:  # noqa: PTH123  the adapter has nothing to lint
    fcntl.ioctl(camera, SET_CONTROL, struct.pack("Ii", HORIZONTAL_MOVEMENT, RIGHT_SLOWLY))
