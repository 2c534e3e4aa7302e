"""The device's software over its life: releases side by side, one in use, a new one on trial, and the way back."""
