package qupath.lib.objects

class ROI {
    Map geometry
}
