package qupath.lib.objects

class PathObject {
    String kind
    ROI roi
    PathClass pathClass
    Map measurements
    Map<String, String> metadata = [:]
    boolean locked

    ROI getROI() { roi }

    Map getMeasurementList() { measurements }

    void setLocked(boolean locked) { this.locked = locked }
}
