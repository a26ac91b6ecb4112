"""Start MONAI Label from an app's folder, which has the guard; takes what `monailabel` takes."""

from __future__ import annotations

from monailabel.main import Main

if __name__ == "__main__":
    Main().run()
