//! Makes the kernel and initramfs that the test guests boot, and says where they are.

use towpath_tests::Result;
use towpath_tests::image::GuestImage;

fn main() -> Result<()> {
    let image = GuestImage::prepare()?;
    eprintln!("guest image: {} and {}", image.kernel.display(), image.initramfs.display());
    Ok(())
}
